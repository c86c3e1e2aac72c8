from busseg.cli import main

main()
