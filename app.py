from ssast_lab.app import main

if __name__ == "__main__":
    main()
